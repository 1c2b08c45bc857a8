#!/bin/bash
# check.sh: is the token in $ACCESS_TOKEN live, for this API? Prints what keyturn knows about it.
# Exit code 0: it is. 1: it is not. Anything else: nobody could tell, so do not let it in.
#
#   ACCESS_TOKEN=... API_SECRET=... ./check.sh

# Everybody on a machine can read the arguments of a program: secrets reach curl by file descriptors.
answer=$(curl --silent --show-error --fail --max-time 5 -d client_id=api \
    --data-urlencode client_secret@<(printf %s "$API_SECRET") \
    --data-urlencode token@<(printf %s "$ACCESS_TOKEN") \
    https://auth.example.com/introspect) || exit 2

# No string within the JSON can look like this, since its quotes would be escaped.
case $answer in
    *'"active":true'*) printf '%s\n' "$answer" ;;
    *'"active":false'*) exit 1 ;;
    *) exit 2 ;;
esac
