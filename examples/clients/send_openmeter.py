"""Send usage with OpenMeter's own client: only the address is another one.

python send_openmeter.py http://localhost:8080 KEY
"""

import sys
from datetime import UTC, datetime

from openmeter import Client
from openmeter.models import Event

url, key = sys.argv[1:]


def event(number: int) -> Event:
    """One call."""
    return Event(
        id=f"openmeter-{number}",
        source="my-app",
        specversion="1.0",
        type="api_call",
        subject="acme",
        time=datetime.now(UTC),
        data={"region": "eu"},
    )


with Client(endpoint=url, token=key) as client:
    client.events.ingest_event(event(1))
    client.events.ingest_events([event(2), event(3)])
print("sent")
