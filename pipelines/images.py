"""Container images: the one that is pinned for a profile, and those on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.tracking.lineage import code_revision
from pipelines.kubernetes_values import IMAGE
from pipelines.profile import profile_path
from segmodels.errors import InputError, TransientError
from segmodels.files import parse_json

REVISION = "org.opencontainers.image.revision"


@dataclass(frozen=True)
class Image:
    """A container image.

    Attributes:
        reference: name by which Kubernetes or Docker pulls it.
        code_revision: Git commit that it was built from.
    """

    reference: str
    code_revision: str


def pinned_image(profile: str, reference: str | None = None, *, allow_tag: bool = False) -> Image:
    """The image that was pinned for a profile by ``make image`` or ``make push``, or ``reference`` in its place.

    Raises:
        InputError: none is pinned, or it is named by a tag, which may stand for another image tomorrow.
    """
    if reference is None:
        lock = lock_file(profile)
        try:
            pinned = parse_json(lock.read_bytes(), {"image": str, "code_revision": str})
            image = Image(pinned["image"], pinned["code_revision"])
        except FileNotFoundError:
            make = (
                "make image"
                if lock.stem.startswith("local")
                else f"make push REGISTRY=... BASE_IMAGE=... VARIANT=cpu|gpu PROFILE={profile_path(profile).stem}"
            )
            raise InputError(
                f"no image is pinned for profile {profile!r} ({lock} does not exist): run `{make}`, or give --image"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{lock} is damaged ({error}), expected JSON with image and code_revision: pin the image again"
            ) from None
    else:
        image = Image(reference, code_revision())
    if not IMAGE.fullmatch(image.reference):
        raise InputError(
            f"image {image.reference!r} is no name of an image, expected one such as registry.example/team/name@sha256:"
            " and 64 hexadecimal digits: check --image, or pin the image again"
        )
    if not allow_tag and not re.search(r"@sha256:[0-9a-f]{64}$", image.reference):
        why = "Kubeflow's cache assumes that equal names are equal images"
        raise InputError(
            f"image {image.reference} is named by a tag, expected name@sha256:... ({why}): pin a digest, or give"
            " --allow-tag"
        )
    return image


def pin_image(profile: str, image: Image) -> Path:
    """Pin the image for ``pinned_image``; the file that holds it."""
    lock = lock_file(profile)
    lock.write_text(
        json.dumps({"image": image.reference, "code_revision": image.code_revision}, indent=2) + "\n", encoding="utf-8"
    )
    return lock


def lock_file(profile: str) -> Path:
    """The file that holds the image pinned for a profile, which may not exist."""
    return profile_path(profile).with_suffix(".lock.json")


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
