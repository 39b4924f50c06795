"""What the Flex Template's launcher starts: `classify`, with the parameters as they come, `--name=value`.

The workers run the image that this launcher runs in. Dataflow does not say which one that is, so the build writes its
name into PIPELINE_IMAGE, and it is passed on here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from pipeline.__main__ import main
from pipeline.errors import ConfigError

IMAGE = "PIPELINE_IMAGE"


def arguments(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The launcher's words, and which image the workers run if they do not say it.

    Raises:
        ConfigError: neither they nor the image say it: the workers would lack this package.
    """
    given = {word.lstrip("-").split("=", 1)[0] for word in words}
    on_dataflow = any(word == "--runner=DataflowRunner" for word in words)
    if not on_dataflow or given & {"sdk_container_image", "setup_file"}:
        return list(words)
    image = environment.get(IMAGE)
    if not image:
        raise ConfigError(
            f"the workers' image is not known: build with --build-arg {IMAGE}=..., or pass --sdk_container_image"
        )
    return [*words, f"--sdk_container_image={image}"]


if __name__ == "__main__":
    try:
        words = arguments(sys.argv[1:], os.environ)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(main(["classify", *words]))
