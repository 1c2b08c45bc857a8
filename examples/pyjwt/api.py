"""An API behind keyturn, with PyJWT (2.6 or newer) and cryptography. `app` runs in any WSGI server."""
import base64
import json
import re
import threading
import time
import zlib
from socketserver import ThreadingMixIn
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener
from wsgiref.simple_server import WSGIServer, make_server

import jwt

ISSUER = "https://auth.example.com"
AUDIENCE = "https://api.example.com"
LISTEN = "127.0.0.1:9000"
POLL = 15  # seconds between two looks at the keys and the status lists
STALE = 600  # seconds; older keys and lists are not used
MAX_LIST = 1 << 20  # bytes of a document, and of a status list, uncompressed
MAX_TOKEN = 8 << 10  # bytes; keyturn issues none that is larger


class Unavailable(Exception):
    """The token cannot be checked now: answer 503."""


class Document:
    """Something that keyturn serves. It is fetched when it is first used, and then polled while it is in use."""

    def __init__(self, url):
        self.url, self.etag, self.value, self.fetched, self.failed = url, None, None, 0, 0
        self.used = time.monotonic()
        self.lock = threading.Lock()

    def poll(self):
        with self.lock:
            request = Request(self.url, headers={"User-Agent": f"keyturn-example-pyjwt ({AUDIENCE})"})
            if self.etag:
                request.add_header("If-None-Match", self.etag)
            try:
                with opener.open(request, timeout=5) as response:
                    self.value, self.etag = self.read(response.read(MAX_LIST)), response.headers["ETag"]
            except HTTPError as error:
                if error.code == 404:
                    self.missing()
                elif error.code != 304:
                    self.fail(error)
            except Exception as error:  # whatever is wrong with the answer, the next poll may bring a better one
                self.fail(error)
            self.fetched = time.monotonic()

    def fail(self, error):
        self.failed = time.monotonic()
        raise Unavailable(f"{self.url}: {error!r}") from error

    def get(self):
        self.used = now = time.monotonic()
        if self.value is None or now - self.fetched > STALE:
            if now - self.failed < 1:  # who waits for the lock must not ask again
                raise Unavailable(f"{self.url}: it has just failed")
            self.poll()
        return self.value

    def missing(self):
        self.fail(ValueError("not found"))


class Keys(Document):
    """The JWKS, as a dictionary of keys by kid."""

    def read(self, body):
        keys = {key.key_id: key.key for key in jwt.PyJWKSet.from_dict(json.loads(body)).keys}
        if not keys:
            raise ValueError("no keys")
        return keys

    def of(self, token):
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except RecursionError as error:
            raise jwt.InvalidTokenError("malformed") from error
        key = self.get().get(kid if isinstance(kid, str) else None)
        if key is None:
            raise jwt.InvalidTokenError("unknown key")
        return key


class StatusList(Document):
    """A Token Status List (draft-ietf-oauth-status-list): its time, and its places, one bit for each."""

    def read(self, body):
        token = body.decode("ascii")
        claims = jwt.decode(token, keys.of(token), algorithms=["RS256"], options={"require": ["exp", "iat", "sub"]})
        if jwt.get_unverified_header(token).get("typ") != "statuslist+jwt" or claims["sub"] != self.url:
            raise ValueError("not this status list")
        if claims["status_list"]["bits"] != 1:
            raise ValueError("more than one bit for each place")
        text = claims["status_list"]["lst"]
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        places = zlib.decompressobj().decompress(packed, MAX_LIST)
        # A server that lags behind must not revive a login: its list is older, or of the same second with fewer marks.
        issued, known = self.value or (0, b"")
        if claims["iat"] < issued:
            raise ValueError("an older list")
        if claims["iat"] == issued and len(known) == len(places):
            places = (int.from_bytes(places, "big") | int.from_bytes(known, "big")).to_bytes(len(places), "big")
        return claims["iat"], places

    def missing(self):
        """Its last token has expired."""
        self.value, self.etag = ((self.value or (0,))[0], b""), None

    def has_ended(self, index):
        places = self.get()[1]
        return index // 8 >= len(places) or places[index // 8] >> index % 8 & 1 == 1


class NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = build_opener(NoRedirects)
keys = Keys(f"{ISSUER}/.well-known/jwks.json")
lists = {}  # by URI


def poll():
    """Runs in a thread. A server that forks must start it in each process."""
    while True:
        time.sleep(POLL)
        for document in [keys, *list(lists.values())]:
            try:
                document.poll()
            except Unavailable as error:
                print("cannot fetch", error, flush=True)
        for uri, document in list(lists.items()):
            if time.monotonic() - document.used > STALE:
                del lists[uri]


def check_status(status):
    """Refuses a token whose login has ended, and one whose status cannot be read."""
    place = status.get("status_list") if isinstance(status, dict) else None
    uri, index = (place.get("uri"), place.get("idx")) if isinstance(place, dict) else (None, None)
    if not isinstance(uri, str) or not re.fullmatch(re.escape(f"{ISSUER}/status/") + r"[\w-]{1,64}", uri, re.ASCII):
        raise jwt.InvalidTokenError("no status list of this server")
    if type(index) is not int or index < 0:
        raise jwt.InvalidTokenError("no place in a status list")
    if lists.setdefault(uri, StatusList(uri)).has_ended(index):
        raise jwt.InvalidTokenError("the login has ended")


def verify(token):
    """Returns the claims of a valid access token for this API, or raises jwt.PyJWTError or Unavailable."""
    if len(token) > MAX_TOKEN:
        raise jwt.InvalidTokenError("too large")
    claims = jwt.decode(
        token,
        keys.of(token),
        algorithms=["RS256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        # By default PyJWT refuses an `iat` slightly ahead of this clock, which no RFC requires.
        options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
    )
    header = jwt.get_unverified_header(token)  # the signature is verified
    if header.get("typ") != "at+jwt" or "crit" in header:  # PyJWT ignores extensions that must be understood
        raise jwt.InvalidTokenError("not an access token")
    if "status" in claims:
        check_status(claims["status"])
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
