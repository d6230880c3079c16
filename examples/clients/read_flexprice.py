"""Read usage and events with FlexPrice's own client: only the address is another one.

python read_flexprice.py http://localhost:8080 KEY
"""

import sys

from flexprice import Flexprice

url, key = sys.argv[1:]
with Flexprice(server_url=f"{url}/v1", api_key_auth=key) as client:
    usage = client.events.get_usage_by_meter(meter_id="calls", external_customer_id="acme")
    stored = client.events.list_raw_events(external_customer_id="acme", page_size=100)
print(f"{usage.value:g} calls, {len(stored.events)} events")
