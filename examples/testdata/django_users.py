"""Makes users with Django's own hashers, and prints the output of manage.py dumpdata auth.group auth.user."""
import sys

import django
from django.conf import settings

HASHERS = ["PBKDF2", "PBKDF2SHA1", "Argon2", "BCryptSHA256", "BCrypt", "Scrypt", "MD5", "UnsaltedMD5", "SHA1"]

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    SECRET_KEY="nothing is signed",
    USE_TZ=True,
    PASSWORD_HASHERS=[
        f"django.contrib.auth.hashers.{name}PasswordHasher"
        for name in HASHERS
        if name != "Scrypt" or django.VERSION >= (4, 0)  # Django has scrypt since 4.0
    ],
)
django.setup()

from django.contrib.auth.hashers import get_hashers, make_password  # noqa: E402
from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402

call_command("migrate", verbosity=0)
editors = Group.objects.create(name="editors")
for hasher in get_hashers():
    user = User.objects.create(username=hasher.algorithm, password=make_password(sys.argv[1], hasher=hasher.algorithm))
    user.groups.add(editors)
retired = User.objects.create(username="retired", password=make_password(sys.argv[1]), is_active=False)
ldap = User(username="ldap")
ldap.set_unusable_password()
ldap.save()
call_command("dumpdata", "auth.group", "auth.user")
