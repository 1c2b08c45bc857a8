from urllib.parse import urlsplit

from django.core.management.utils import get_random_secret_key

ISSUER = "https://auth.example.com"
AUDIENCE = "https://api.example.com"

SECRET_KEY = get_random_secret_key()  # Django requires one; this project signs nothing with it
ALLOWED_HOSTS = [urlsplit(AUDIENCE).hostname or "localhost", "127.0.0.1"]
ROOT_URLCONF = "api.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"]
USE_TZ = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["api.auth.KeyturnAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
}

SIMPLE_JWT = {
    "ALGORITHM": "RS256",
    "ISSUER": ISSUER,
    "AUDIENCE": AUDIENCE,
    "JWK_URL": f"{ISSUER}/.well-known/jwks.json",
    "LEEWAY": 1,  # seconds; without it a clock that is slightly behind refuses new tokens as "from the future"
    "TOKEN_TYPE_CLAIM": None,  # auth.py checks the type, which is in the header
    "USER_ID_CLAIM": "sub",
    "TOKEN_USER_CLASS": "api.auth.Person",
}
