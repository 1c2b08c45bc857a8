"""A program that calls an API behind keyturn. Only the first run needs the password: later runs use token.json."""
import json
import os
import sys

from oauthlib.oauth2 import InvalidGrantError, LegacyApplicationClient
from requests_oauthlib import OAuth2Session

TOKEN_URL = "https://auth.example.com/token"
API_URL = "https://api.example.com"
CLIENT_ID, CLIENT_SECRET = "app", os.environ["CLIENT_SECRET"]
TOKEN_FILE = "token.json"


def save(token):
    """Each refresh token works once. A program that loses its successor must log in again."""
    with open(os.open(f"{TOKEN_FILE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(token, file)
    os.replace(f"{TOKEN_FILE}.new", TOKEN_FILE)


session = OAuth2Session(client=LegacyApplicationClient(CLIENT_ID), auto_refresh_url=TOKEN_URL, token_updater=save)


def login():
    if "LOGIN_PASSWORD" not in os.environ:
        sys.exit("Log in: set LOGIN_USER and LOGIN_PASSWORD.")
    username, password = os.environ["LOGIN_USER"], os.environ["LOGIN_PASSWORD"]
    try:
        save(session.fetch_token(TOKEN_URL, username=username, password=password, client_secret=CLIENT_SECRET, timeout=10))
    except InvalidGrantError:
        sys.exit("keyturn does not accept this user name and password.")


def get(url):
    """A GET with the access token. Refreshes it if it has expired, or if the API refuses it: its key may have been revoked."""
    # The session sends these credentials to keyturn when it refreshes, and never to the API.
    options = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "timeout": 10}
    try:
        response = session.get(url, **options)
        if response.status_code != 401:
            return response
        save(session.refresh_token(TOKEN_URL, auth=(CLIENT_ID, CLIENT_SECRET), timeout=10))
    except InvalidGrantError:
        login()  # the last login has ended: it was revoked, or was idle for too long
    return session.get(url, **options)


if os.path.exists(TOKEN_FILE):
    with open(TOKEN_FILE) as file:
        session.token = json.load(file)
else:
    login()

response = get(API_URL)
response.raise_for_status()
print(response.json())
