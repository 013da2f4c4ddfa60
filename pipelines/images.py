"""What an image on this machine is."""

from __future__ import annotations

from pipelines.profile import Image
from segmodels.errors import InputError

REVISION = "org.opencontainers.image.revision"


def image_of(name: str) -> Image:
    """The image ``name``, by its digest in a registry, or by this name where it is in none.

    Raises:
        InputError: Docker does not answer, no such image, or one that does not say what code is in it.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env()
        try:
            image = client.images.get(name)
        finally:
            client.close()
    except ImageNotFound:
        raise InputError(f"image {name} is not on this machine: build it with `make image`, or pull it") from None
    except DockerException as error:
        raise InputError(f"Docker does not answer ({' '.join(str(error).split())[:200]}): start it, and check DOCKER_HOST and your right to use it") from None
    revision = image.labels.get(REVISION)
    if not revision:
        raise InputError(f"image {name} has no label {REVISION}: build it with `make image`")
    repository = name.split("@")[0].rpartition(":")[0] if ":" in name.rpartition("/")[2] else name.split("@")[0]
    digests = [digest for digest in image.attrs.get("RepoDigests", []) if digest.split("@")[0] == repository]
    return Image(digests[0] if digests else name, revision)
