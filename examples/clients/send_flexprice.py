"""Send usage with FlexPrice's own client: only the address is another one.

python send_flexprice.py http://localhost:8080 KEY
"""

import sys

from flexprice import Flexprice

url, key = sys.argv[1:]
with Flexprice(server_url=f"{url}/v1", api_key_auth=key) as client:
    one = client.events.ingest_event(
        event_id="flexprice-1",
        event_name="api_call",
        external_customer_id="acme",
        properties={"region": "eu"},
    )
    many = client.events.ingest_events_bulk(
        events=[
            {
                "event_id": f"flexprice-{number}",
                "event_name": "api_call",
                "external_customer_id": "acme",
                "properties": {"region": "us"},
            }
            for number in (2, 3)
        ]
    )
print(one["event_id"], many["message"])
