"""An application of the Django project in peer_django.py, with a model that django-prometheus counts."""
