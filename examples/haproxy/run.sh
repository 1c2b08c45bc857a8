#!/usr/bin/env bash
# Runs HAProxy, and reloads it when the JWKS of keyturn has changed.
set -euo pipefail
jwks=https://auth.example.com/.well-known/jwks.json
interval=300 # seconds: a revoked key is trusted no longer

# hex prints base64url as hexadecimal.
hex() {
  local text=${1//-/+}
  text=${text//_//}
  while (( ${#text} % 4 )); do text+='='; done
  base64 -d <<<"$text" | od -An -v -tx1 | tr -d ' \n'
}

# pem prints a public key from its modulus and exponent (RFC 7518 §6.3.1).
pem() {
  openssl asn1parse -noout -out key.der -genconf <(printf '%s\n' \
    asn1=SEQUENCE:key '[key]' algorithm=SEQUENCE:algorithm bits=BITWRAP,SEQUENCE:rsa '[algorithm]' \
    oid=OID:rsaEncryption null=NULL '[rsa]' "n=INTEGER:0x$(hex "$1")" "e=INTEGER:0x$(hex "$2")")
  openssl pkey -pubin -inform DER -in key.der
}

# frontend prints the frontend for the keys in the files that it is given.
frontend() {
  cat <<'END'
frontend api
    bind 127.0.0.1:9000
END
  if (( $# == 0 )); then
    echo '    http-request return status 503 content-type text/plain string "no keys yet" hdr Retry-After 5'
    return
  fi
  cat <<'END'
    http-request return status 401 content-type text/plain string "an access token is required" hdr WWW-Authenticate Bearer unless { http_auth_bearer -m found }
    http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.kid) var(txn.token),jwt_header_query('$.kid')
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.nbf) var(txn.token),jwt_payload_query('$.nbf','int')
    http-request set-var(txn.now) date()
    http-request set-var(txn.sub) var(txn.token),jwt_payload_query('$.sub')
END
  for file in "$@"; do
    kid=${file#keys/} kid=${kid%.pem}
    echo "    http-request set-var(txn.good) var(txn.token),jwt_verify(\"RS256\",\"$file\") if { var(txn.kid) -m str $kid }"
  done
  cat <<'END'
    acl good var(txn.good) -m int 1
    acl right var(txn.token),jwt_header_query('$.alg') -m str RS256
    acl access var(txn.token),jwt_header_query('$.typ') -m str -i at+jwt
    acl ours var(txn.token),jwt_payload_query('$.iss') -m str https://auth.example.com
    acl here var(txn.token),jwt_payload_query('$.aud') -m str https://api.example.com
    acl dated var(txn.exp) -m found
    acl alive var(txn.exp),sub(txn.now) -m int gt 0
    acl early var(txn.nbf),sub(txn.now) -m int gt 0
    acl extended var(txn.token),jwt_header_query('$.crit[0]') -m found
    http-request return status 401 content-type text/plain string "the access token is not valid" hdr WWW-Authenticate 'Bearer error="invalid_token"' unless good right access ours here dated alive !early !extended
    # In place of your application:
    http-request return status 200 content-type application/json lf-string "{\"sub\":\"%[var(txn.sub)]\"}"
END
}

# refresh writes the keys and the frontend. It fails if the JWKS cannot be fetched, and then changes nothing.
refresh() {
  local set files=() kid n e
  set=$(curl -sf --max-time 5 "$jwks") || return 1
  rm -rf keys.new
  mkdir keys.new
  while read -r kid n e; do
    [[ $kid =~ ^[A-Za-z0-9_-]+$ ]] || return 1
    pem "$n" "$e" >"keys.new/$kid.pem"
    files+=("keys/$kid.pem")
  done < <(jq -r '.keys[] | select(.kty == "RSA") | "\(.kid) \(.n) \(.e)"' <<<"$set")
  rm -rf keys
  mv keys.new keys
  frontend "${files[@]}" >verify.cfg
}

frontend >verify.cfg
refresh || echo 'the JWKS could not be fetched: no token is accepted yet' >&2
haproxy -W -p haproxy.pid -f haproxy.cfg -f verify.cfg &
trap 'kill $!' EXIT
while sleep "$interval"; do
  before=$(cat verify.cfg)
  refresh || { echo 'the JWKS could not be fetched: the keys stay' >&2; continue; }
  [[ $(cat verify.cfg) == "$before" ]] || kill -USR2 "$(head -n 1 haproxy.pid)"
done
