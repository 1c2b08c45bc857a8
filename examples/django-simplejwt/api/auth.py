import json
from urllib.request import urlopen

import jwt
from django.conf import settings
from rest_framework.exceptions import APIException
from rest_framework_simplejwt.authentication import JWTStatelessUserAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError
from rest_framework_simplejwt.models import TokenUser
from rest_framework_simplejwt.state import token_backend
from rest_framework_simplejwt.tokens import AccessToken

JWKS_LIFESPAN = 300  # seconds; the longest time that a removed key is trusted


class JWKSUnavailable(APIException):
    status_code = 503
    default_detail = "Tokens cannot be verified at the moment."


class KeyturnKeys(jwt.PyJWKClient):
    """The JWKS. Fetched again when it is old or lacks a key. If that fails, the answer is 503, and known keys stay."""

    def fetch_data(self):
        try:
            with urlopen(self.uri, timeout=5) as response:
                jwks = json.load(response)
        except Exception as error:
            raise JWKSUnavailable from error
        self.jwk_set_cache.put(jwks)
        return jwks


# The client that Simple JWT makes for JWK_URL has no timeout and no setting for one.
token_backend.jwks_client = KeyturnKeys(settings.SIMPLE_JWT["JWK_URL"], lifespan=JWKS_LIFESPAN)


class KeyturnToken(AccessToken):
    def verify(self):
        super().verify()
        header = jwt.get_unverified_header(self.token)  # the signature is verified
        if header.get("typ") != "at+jwt" or "crit" in header:  # PyJWT ignores extensions that must be understood
            raise TokenError("Not an access token")


class Person(TokenUser):
    """The user of the token. DRF's IsAdminUser admits users with the role admin."""

    is_superuser = False

    @property
    def is_staff(self):
        return "admin" in self.token.get("roles", [])


class KeyturnAuthentication(JWTStatelessUserAuthentication):
    def get_validated_token(self, raw_token):
        try:
            return KeyturnToken(raw_token)
        except TokenError:
            raise InvalidToken from None

    def authenticate_header(self, request):
        return 'Bearer error="invalid_token"' if self.get_header(request) else "Bearer"
