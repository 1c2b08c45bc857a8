from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAdminUser
from rest_framework.response import Response


@api_view()
def whoami(request):
    return Response({"sub": request.user.id, "scope": request.auth.get("scope", "")})


@api_view()
@permission_classes([IsAdminUser])
def admin(request):
    return Response({"roles": request.auth["roles"]})


urlpatterns = [path("", whoami), path("admin", admin)]
