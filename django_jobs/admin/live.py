"""Regions that a page fetches anew: their inner HTML, and nothing where that is unchanged."""

from collections.abc import Mapping
from hashlib import sha1
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response, patch_cache_control, patch_vary_headers


def partial(request: HttpRequest, template: str, context: Mapping[str, Any]) -> HttpResponse:
    """The region that `template` makes; 304 and no body for who has just that.

    For a view wrapped with `cacheable=True`, as the admin otherwise forbids to keep what it answers. The
    template must give the same for the same: no token of a form, and no passing time but in
    `<time data-jobs-ago>`.
    """
    html = render_to_string(template, dict(context), request)
    response = HttpResponse(html)
    # Not for secrecy: two regions that differ are to have different tags.
    response["ETag"] = f'"{sha1(html.encode(), usedforsecurity=False).hexdigest()}"'
    patch_cache_control(response, no_cache=True, private=True)
    patch_vary_headers(response, ["Cookie"])
    return get_conditional_response(request, etag=response["ETag"], response=response) or response
