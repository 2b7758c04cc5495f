"""What a browser shows: the page, and the documentation. Their files are on this machine, nothing is fetched."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from palate.apps.serve.problems import NotFound

router = APIRouter(include_in_schema=False)
PAGE = Path(__file__).parents[1] / "page"
SWAGGER = Path(str(files("fastapi_offline"))) / "static"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Palate: the HTTP service</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
"""
START = "SwaggerUIBundle({url: '/openapi.json', dom_id: '#docs', deepLinking: true});\n"


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return _file(PAGE, "index.html")


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """A file of the page, by its bare name."""
    return _file(PAGE, name)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Every route, to read and to try."""
    return HTMLResponse(DOCS)


@router.get("/docs/start.js")
async def start() -> Response:
    """Swagger UI's beginning, in a file of its own: inline scripts are forbidden."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def swagger(name: str) -> FileResponse:
    """A file of Swagger UI."""
    return _file(SWAGGER, name)


def _file(folder: Path, name: str) -> FileResponse:
    path = folder / name
    if "/" in name or "\\" in name or path.suffix not in KINDS or not path.is_file():
        raise NotFound(f"there is no file {name!r:.80} here")
    return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})
