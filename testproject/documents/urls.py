from django.urls import path

from . import views

app_name = "documents"
urlpatterns = [
    path("", views.search, name="search"),
    path("documents/", views.document_list, name="document_list"),
    path("documents/<int:pk>/", views.document_detail, name="document_detail"),
]
