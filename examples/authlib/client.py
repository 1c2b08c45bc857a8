"""A program that calls an API behind keyturn. Only the first run needs the password: later runs use token.json."""
import json
import os
import sys

from authlib.integrations.requests_client import OAuth2Session, OAuthError

TOKEN_URL = "https://auth.example.com/token"
API_URL = "https://api.example.com"
TOKEN_FILE = "token.json"


def save(token, refresh_token=None, access_token=None):
    """Each refresh token works once. A program that loses its successor must log in again."""
    with open(os.open(f"{TOKEN_FILE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(token, file)
    os.replace(f"{TOKEN_FILE}.new", TOKEN_FILE)


session = OAuth2Session(
    client_id="app",
    client_secret=os.environ["CLIENT_SECRET"],
    token_endpoint=TOKEN_URL,
    update_token=save,
    default_timeout=10,
)


def login():
    if "LOGIN_PASSWORD" not in os.environ:
        sys.exit("Log in: set LOGIN_USER and LOGIN_PASSWORD.")
    try:
        save(session.fetch_token(username=os.environ["LOGIN_USER"], password=os.environ["LOGIN_PASSWORD"]))
    except OAuthError as error:
        if error.error != "invalid_grant":
            raise
        sys.exit("keyturn does not accept this user name and password.")


def get(url):
    """A GET with the access token. Refreshes it if it has expired, or if the API refuses it: its key may have been revoked."""
    try:
        response = session.get(url)
        if response.status_code != 401:
            return response
        session.refresh_token(TOKEN_URL)
    except OAuthError as error:
        if error.error != "invalid_grant":
            raise
        login()  # the last login has ended: it was revoked, or was idle for too long
    return session.get(url)


if os.path.exists(TOKEN_FILE):
    with open(TOKEN_FILE) as file:
        session.token = json.load(file)
else:
    login()

response = get(API_URL)
response.raise_for_status()
print(response.json())
