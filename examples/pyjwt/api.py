"""An API behind keyturn, with PyJWT (2.6 or newer) and cryptography. `app` runs in any WSGI server."""
import base64
import json
import threading
import time
import zlib
from http.client import HTTPException
from socketserver import ThreadingMixIn
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from wsgiref.simple_server import WSGIServer, make_server

import jwt

ISSUER = "https://auth.example.com"
AUDIENCE = "https://api.example.com"
LISTEN = "127.0.0.1:9000"
POLL = 15  # seconds between two looks at the keys and the status lists
STALE = 600  # seconds; older keys and lists are not used
MAX_LIST = 1 << 20  # bytes of a status list, uncompressed


class Unavailable(Exception):
    """The token cannot be checked now: answer 503."""


class Document:
    """Something that keyturn serves. It is fetched when it is first used, and then polled while it is in use."""

    def __init__(self, url):
        self.url, self.etag, self.value, self.fetched, self.used = url, None, None, 0, time.monotonic()
        self.lock = threading.Lock()

    def poll(self):
        with self.lock:
            request = Request(self.url, headers={"User-Agent": f"keyturn-example-pyjwt ({AUDIENCE})"})
            if self.etag:
                request.add_header("If-None-Match", self.etag)
            try:
                with urlopen(request, timeout=5) as response:
                    self.value, self.etag = self.read(response.read()), response.headers["ETag"]
            except HTTPError as error:
                if error.code == 404:
                    self.value, self.etag = self.missing(), None
                elif error.code != 304:
                    raise Unavailable(f"{self.url}: {error}") from error
            except (OSError, HTTPException, ValueError, KeyError, TypeError, zlib.error, jwt.PyJWTError) as error:
                raise Unavailable(f"{self.url}: {error}") from error
            self.fetched = time.monotonic()

    def get(self):
        self.used = time.monotonic()
        if self.value is None or self.used - self.fetched > STALE:
            self.poll()
        return self.value

    def missing(self):
        raise Unavailable(f"{self.url}: not found")


class Keys(Document):
    """The JWKS, as a dictionary of keys by kid."""

    def read(self, body):
        return {key.key_id: key.key for key in jwt.PyJWKSet.from_dict(json.loads(body)).keys}

    def of(self, token):
        key = self.get().get(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise jwt.InvalidTokenError("unknown key")
        return key


class StatusList(Document):
    """A Token Status List (draft-ietf-oauth-status-list), as its time and its places, one bit for each."""

    def read(self, body):
        token = body.decode("ascii")
        claims = jwt.decode(token, keys.of(token), algorithms=["RS256"], options={"require": ["exp", "iat", "sub"]})
        if jwt.get_unverified_header(token).get("typ") != "statuslist+jwt" or claims["sub"] != self.url:
            raise ValueError("not this status list")
        if self.value and claims["iat"] < self.value[0]:
            raise ValueError("an older list, of a server that lags behind")
        if claims["status_list"]["bits"] != 1:
            raise ValueError("more than one bit for each place")
        text = claims["status_list"]["lst"]
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return claims["iat"], zlib.decompressobj().decompress(packed, MAX_LIST)

    def missing(self):
        return 0, b""  # its last token has expired

    def has_ended(self, index):
        places = self.get()[1]
        return index // 8 >= len(places) or places[index // 8] >> index % 8 & 1 == 1


keys = Keys(f"{ISSUER}/.well-known/jwks.json")
lists = {}  # by URI


def poll():
    while True:
        time.sleep(POLL)
        for document in [keys, *lists.values()]:
            try:
                document.poll()
            except Unavailable as error:
                print("cannot fetch", error, flush=True)
        for uri, document in list(lists.items()):
            if time.monotonic() - document.used > STALE:
                del lists[uri]


def verify(token):
    """Returns the claims of a valid access token for this API, or raises jwt.PyJWTError or Unavailable."""
    claims = jwt.decode(
        token,
        keys.of(token),
        algorithms=["RS256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        # By default PyJWT refuses an `iat` slightly ahead of this clock, which no RFC requires.
        options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
    )
    if jwt.get_unverified_header(token).get("typ") != "at+jwt":  # the signature is verified
        raise jwt.InvalidTokenError("not an access token")
    status = claims.get("status", {}).get("status_list")
    if status:
        uri = status["uri"]
        if not uri.startswith(f"{ISSUER}/status/"):
            raise jwt.InvalidTokenError("a status list of another server")
        if lists.setdefault(uri, StatusList(uri)).has_ended(status["idx"]):
            raise jwt.InvalidTokenError("the login has ended")
    return claims


def app(environ, start_response):
    def answer(status, body, *headers):
        start_response(status, [("Content-Type", "application/json"), *headers])
        return [json.dumps(body).encode()]

    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        return answer("401 Unauthorized", {"error": "unauthorized"}, ("WWW-Authenticate", "Bearer"))
    try:
        claims = verify(token.strip())
    except jwt.PyJWTError:
        return answer("401 Unauthorized", {"error": "invalid_token"}, ("WWW-Authenticate", 'Bearer error="invalid_token"'))
    except Unavailable as error:
        print("cannot verify tokens:", error, flush=True)
        return answer("503 Service Unavailable", {"error": "temporarily_unavailable"})
    return answer("200 OK", {"sub": claims["sub"], "scope": claims.get("scope", "")})


threading.Thread(target=poll, daemon=True).start()


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    host, port = LISTEN.split(":")
    make_server(host, int(port), app, Server).serve_forever()
