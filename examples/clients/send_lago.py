"""Send usage with Lago's own client: only the address is another one.

python send_lago.py http://localhost:8080 KEY
"""

import sys
import time

from lago_python_client.client import Client
from lago_python_client.models import BatchEvent, Event

url, key = sys.argv[1:]
client = Client(api_key=key, api_url=url)


def event(number: int) -> Event:
    """One call."""
    return Event(
        transaction_id=f"lago-{number}",
        external_subscription_id="sub_acme",
        code="api_call",
        timestamp=int(time.time()),
        properties={"region": "eu"},
    )


answer = client.events.create(event(1))
client.events.batch_create(BatchEvent(events=[event(2), event(3)]))
print(answer.transaction_id)
