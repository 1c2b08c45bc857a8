"""An API behind keyturn, with PyJWT (2.6 or newer) and cryptography. `app` runs in any WSGI server."""
import json
from socketserver import ThreadingMixIn
from urllib.request import urlopen
from wsgiref.simple_server import WSGIServer, make_server

import jwt

ISSUER = "https://auth.example.com"
AUDIENCE = "https://api.example.com"
LISTEN = "127.0.0.1:9000"
JWKS_LIFESPAN = 300  # seconds; the longest time that a removed key is trusted


class JWKSUnavailable(Exception):
    pass


class Keys(jwt.PyJWKClient):
    """The JWKS. Fetched again when it is old or lacks a key. If that fails, the answer is 503, and known keys stay."""

    def fetch_data(self):
        try:
            with urlopen(self.uri, timeout=5) as response:
                jwks = json.load(response)
        except Exception as error:
            raise JWKSUnavailable from error
        self.jwk_set_cache.put(jwks)
        return jwks


keys = Keys(f"{ISSUER}/.well-known/jwks.json", lifespan=JWKS_LIFESPAN)


def verify(token):
    """Returns the claims of a valid access token for this API, or raises jwt.PyJWTError."""
    claims = jwt.decode(
        token,
        keys.get_signing_key_from_jwt(token).key,
        algorithms=["RS256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        # By default PyJWT refuses an `iat` slightly ahead of this clock, which no RFC requires.
        options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
    )
    if jwt.get_unverified_header(token).get("typ") != "at+jwt":  # the signature is verified
        raise jwt.InvalidTokenError("not an access token")
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
    except JWKSUnavailable:
        return answer("503 Service Unavailable", {"error": "temporarily_unavailable"})
    return answer("200 OK", {"sub": claims["sub"], "scope": claims.get("scope", "")})


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    host, port = LISTEN.split(":")
    make_server(host, int(port), app, Server).serve_forever()
