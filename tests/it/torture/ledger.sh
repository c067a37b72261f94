#!/bin/sh
# The world that the torture acts on. Each call appends its class and its key to the file `ledger` of the working
# directory, makes that durable, and says what it did: the same words for the same call of whichever run.
set -eu
printf '%s %s\n' "$1" "$PROVOST_IDEMPOTENCY_KEY" >> ledger
sync ledger
printf '%s of %s' "$1" "${PROVOST_IDEMPOTENCY_KEY#*/}"
