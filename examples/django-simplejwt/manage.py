#!/usr/bin/env python3
"""An API behind keyturn. To try it: python3 manage.py runserver 127.0.0.1:9000"""
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "api.settings")
execute_from_command_line(sys.argv)
