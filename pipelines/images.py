"""Container images on this machine."""

from __future__ import annotations

from typing import Any

from pipelines.profile import Image
from segmodels.errors import InputError, TransientError

REVISION = "org.opencontainers.image.revision"


def image_of(name: str) -> Image:
    """The image ``name`` of this machine, by its digest if a registry has it, else by this name.

    Raises:
        InputError: as ``local_image``, or the image has no label with its code's revision.
    """
    image = local_image(name)
    revision = image.labels.get(REVISION)
    if not revision:
        raise InputError(f"image {name} has no label {REVISION}: build it with `make image`")
    repository = name.split("@")[0].rpartition(":")[0] if ":" in name.rpartition("/")[2] else name.split("@")[0]
    digests = [digest for digest in image.attrs.get("RepoDigests", []) if digest.split("@")[0] == repository]
    return Image(digests[0] if digests else name, revision)


def local_image(name: str) -> Any:
    """Docker's object of the image ``name`` on this machine.

    Raises:
        InputError: Docker does not answer, the name is not valid, or there is no such image.
        TransientError: Docker fails.
    """
    import docker
    from docker.errors import APIError, DockerException, ImageNotFound

    try:
        client = docker.from_env()
        try:
            return client.images.get(name)
        finally:
            client.close()
    except ImageNotFound:
        raise InputError(
            f"image {name} is not on this machine: build it with `make image`, or `docker pull {name}`"
        ) from None
    except APIError as error:
        if error.is_client_error():
            raise InputError(f"Docker rejects image {name} ({error.explanation}): check the name") from None
        raise TransientError(f"Docker fails with image {name} ({error.explanation})") from None
    except (DockerException, OSError) as error:
        raise InputError(
            f"Docker does not answer ({' '.join(str(error).split())[:200]}): start it, and check DOCKER_HOST and your"
            " right to use it"
        ) from None
