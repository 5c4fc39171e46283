"""Serving the page."""

from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from oppu_demo.templating import styles

LOOPBACK = ("127.0.0.1", "localhost")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the system's fonts, so that nothing is downloaded from elsewhere."""
    plain = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO)
    # Enough contrast (WCAG AA) for text on and in the accent colour.
    return plain.set(
        color_accent="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="#526071",
        body_text_color_subdued_dark="#a9b4c4",
        block_label_text_color="#3b4757",
        block_title_text_color="#3b4757",
        block_info_text_color="#526071",
    )


def launch(blocks: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> str:
    """Serve the page and return its address."""
    blocks.queue(max_size=200)
    if host in LOOPBACK:  # under other host names, another site could reach the page (DNS rebinding)
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
        options["app_kwargs"] = {"middleware": [hosts]}
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css=styles(),
        quiet=True,
        ssr_mode=False,
        max_file_size="1mb",
        footer_links=["api"],
        **options,
    )
    return str(address)
