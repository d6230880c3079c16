#!/bin/sh
# Send usage with curl: one event, then several, packed, one in each line.
# sh send_curl.sh http://localhost:8080 KEY
set -eu
curl --fail-with-body --silent --show-error "$1/v1/events" \
  -H "x-api-key: $2" -H 'content-type: application/json' \
  -d '{"event_id": "curl-1", "event_name": "api_call", "external_customer_id": "acme", "properties": {"region": "eu"}}'
printf '%s\n' \
  '{"event_id": "curl-2", "event_name": "api_call", "external_customer_id": "acme", "properties": {"region": "us"}}' \
  '{"event_id": "curl-3", "event_name": "api_call", "external_customer_id": "acme", "properties": {"region": "us"}}' |
  gzip | curl --fail-with-body --silent --show-error "$1/v1/events/bulk" \
  -H "x-api-key: $2" -H 'content-type: application/x-ndjson' -H 'content-encoding: gzip' --data-binary @-
