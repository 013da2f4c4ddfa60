"""Environment profiles, pinned images, pipeline parameters, cron expressions, secrets."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml

from components.params.reading import checked_params, load_params
from components.params.schema import PipelineParams
from pipelines.cluster_objects import require_objects
from pipelines.cron import Cron
from pipelines.images import Image, image_of, local_image, pin_image, pinned_image
from pipelines.parameters import all_params, default_values, given_values
from pipelines.profile import Profile, Secret, Volume, load_profile
from segmodels.errors import InputError, TransientError

REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST = "registry.example/segmodels@sha256:" + "a" * 64


class Answers(BaseHTTPRequestHandler):
    """A server whose answers are JSON."""

    def answer(self) -> tuple[int, dict]:
        """Status and body, of ``self.path``."""
        raise NotImplementedError

    def do_GET(self) -> None:
        status, body = self.answer()
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: type[Answers]) -> Iterator[int]:
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


# --- profiles


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("gpus: {count: 1}", "unknown key 'gpus', did you mean 'gpu'?"),
        (
            "pods: {train: {memory: 8Gi}}",
            "unknown key 'pods.train.memory', did you mean 'memory_limit' or 'shared_memory' or 'memory_request'?",
        ),
        ("pods: {training: {}}", "unknown key 'pods.training', did you mean 'train'?"),
        ("secrets: [{name: s, environment: {k: A}, steps: [trian]}]", "unknown step 'trian': did you mean 'train'"),
        ("pods: {train: {memory_limit: 8 GB}}", "pods.train.memory_limit is '8 GB'"),
        ("pods: {train: {memory_limit: 1.5Gi}}", "pods.train.memory_limit is '1.5Gi'"),  # kfp refuses it
        ("pods: {train: {scratch: 100K}}", "pods.train.scratch is '100K'"),  # Kubeflow's driver fails
        ("pods: {train: {cpu_limit: 2Gi}}", "pods.train.cpu_limit is '2Gi'"),
        ("pods: {train: {memory_limit: 16}}", "memory_limit is 16, expected at least 1Mi: a number without a unit co"),
        ("environment: {OMP_NUM_THREADS: 4}", "environment.OMP_NUM_THREADS is 4, expected text: put it in quotes"),
        ("environment: {AWS_SECRET_ACCESS_KEY: x}", "looks like a credential: put it into a Kubernetes secret"),
        ("environment: {MLFLOW_TRACKING_URI: 'http://me:hunter2@mlflow'}", "put it into a Kubernetes secret"),
        ("checkpoints: /mnt/states", "checkpoints is '/mnt/states'"),
        ("run_as_user: 0", "run_as_user is 0"),
        ("secrets: [{name: s}]", "secrets.0.environment is missing"),
        ("environment: {A: x}\nsecrets: [{name: s, environment: {k: A}}]", "A is set twice"),
        ("checkpoints: s3://me:hunter2@bucket/x", "checkpoints: the address holds a user, a password or a token"),
        ("checkpoints: s3://my bucket/x", "checkpoints is 's3://my bucket/x'"),
        ("ui: https://me:hunter2@kubeflow.example", "ui: the address holds a user, a password or a token, expected"),
        ("retries: {count: 99999999999999}", "retries.count is 99999999999999, expected less than"),
        ("retries: {hours: 99999999999999}", "retries.hours is 99999999999999, expected less than"),
        ("a: [", "is not YAML"),
        ("[]", "the file is [], expected a mapping"),
        ("pods: {train: {cpu_request: '4', cpu_limit: '2'}}", "cpu_request of train is 4, expected at most its cpu_l"),
        ("pods: {train: {cpu_request: '1', cpu_limit: 900m}}", "cpu_request of train is 1, expected at most"),
        ("pods: {default: {memory_limit: 4Gi}, train: {memory_request: 5G}}", "expected at most its memory_limit 4Gi"),
        ("pods: {train: {node_selector: {a b: c}}}", "pods.train.node_selector.a b is 'a b', expected a label of at"),
        ("pods: {train: {node_selector: {a: c d}}}", "pods.train.node_selector.a is 'c d', expected a label's value"),
        (f"pods: {{train: {{node_selector: {{a: {'x' * 64}}}}}}}", "expected a label's value: at most 63"),
        ("pods: {train: {tolerations: [{key: x, value: y}]}}", "value is 'y', expected none with operator Exists"),
        ("pods: {train: {tolerations: [{key: '', operator: Equal}]}}", "key is empty, expected the taint's key"),
        ("environment: {A B: x}", "environment.A B is 'A B', expected the name of an environment variable"),
        ("environment: {SEGMODELS_IMAGE: x}", "SEGMODELS_IMAGE is set in environment or secrets, expected in neither"),
        ("environment: {SEGMODELS_CHECKPOINTS: s3://b/c}", "the pipeline sets it itself, from the profile's keys ch"),
        ("environment: {SEGMODELS_WEBHOOK_URL: https://chat/1}", "looks like a credential: put it into a Kubernetes"),
        ("secrets: [{name: s..t, environment: {k: A}}]", "secrets.0.name is 's..t', expected a name of Kubernetes"),
        ("secrets: [{name: s, environment: {'k/1': A}}]", "expected a key of a secret"),
        ("service_account: a.-b", "service_account is 'a.-b', expected a name of Kubernetes"),
        ("volumes: [{claim: my.data, path: /a}]", "volumes.0.claim is 'my.data', expected at most 63 small letters"),
        ("volumes: [{claim: c, path: 'a'}]", "volumes.0.path is 'a', expected an absolute path"),
        ("volumes: [{claim: c, path: /}]", "volumes.0.path is '/', expected an absolute path below /"),
        ("volumes: [{claim: c, path: /a}, {claim: d, path: /a/}]", "two volumes have the path /a, expected one each"),
        ("volumes: [{claim: c, path: /work/data}]\npods: {default: {scratch: 1Gi}}", "have the path /work/data, exp"),
        ("gpu: {type: nvidia}", "gpu.type is 'nvidia', expected a resource of the nodes with its domain"),
        ("run_as_user: 2147483648", "run_as_user is 2147483648"),
    ],
)
def test_a_mistake_in_a_profile_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError) as caught:
        load_profile(str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_kubernetes_takes_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("""
environment: {http_proxy: 'http://proxy:3128', NCCL_DEBUG: INFO, SEGMODELS_CODE_REVISION: abc, EMPTY: ''}
secrets: [{name: team.store, environment: {access-key.1: SEGMODELS_S3_ACCESS_KEY_ID}}]
service_account: default-editor
volumes: [{claim: scratch, path: /data/a}, {claim: scratch, path: /work/data/b}, {claim: 1-logs, path: /logs}]
gpu: {type: nvidia.com/mig-1g.5gb, count: 0}
pods:
  default: {cpu_request: 500m, cpu_limit: '0.5', memory_request: 1024Mi, memory_limit: 1Gi, scratch: 1Gi}
  train:
    cpu_request: 0.5
    cpu_limit: 1
    memory_request: 1073741824
    node_selector: {cloud.example.com/node.pool_1: '', topology.kubernetes.io/zone: europe-west4-a}
    tolerations: [{key: ''}, {key: a/b, operator: Equal}, {key: a, operator: Equal, value: x.Y_z, effect: NoExecute}]
""")
    load_profile(str(tmp_path / "mine.yaml"))


def test_a_profile_that_is_not_there_is_answered_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(InputError, match="cpu, gpu, local"):
        load_profile("tpu")


def test_a_steps_pod_is_the_default_with_what_it_says_itself() -> None:
    profile = Profile.model_validate(
        yaml.safe_load("pods: {default: {cpu_limit: '2', memory_limit: 4Gi}, register: {memory_limit: 8Gi}}")
    )
    assert profile.pods.of("register").model_dump(exclude_unset=True) == {"cpu_limit": "2", "memory_limit": "8Gi"}
    assert profile.pods.of("train").memory_limit == "4Gi"


# --- images


def test_an_image_is_pinned_for_a_profile_and_found_again(tmp_path: Path) -> None:
    profile = str(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match="make push REGISTRY"):
        pinned_image(profile)
    pin_image(profile, Image(DIGEST, "abc"))
    assert pinned_image(profile) == Image(DIGEST, "abc")
    (tmp_path / "mine.lock.json").write_text("{}")
    with pytest.raises(InputError, match=r"is damaged \(.+\), expected JSON with image and .*: pin the image"):
        pinned_image(profile)


def test_an_image_by_tag_is_refused_unless_allowed(tmp_path: Path) -> None:
    for reference in ("segmodels", "segmodels:latest"):
        with pytest.raises(InputError, match="named by a tag"):
            pinned_image(str(tmp_path / "mine.yaml"), reference)
    assert pinned_image(str(tmp_path / "mine.yaml"), "segmodels:latest", allow_tag=True).reference == "segmodels:latest"


def test_what_is_no_name_of_an_image_is_refused(tmp_path: Path) -> None:
    profile = str(tmp_path / "mine.yaml")
    digest = "@sha256:" + "a" * 64
    for name in ("foo bar", " segmodels", "Segmodels", "https://registry.example/segmodels", "a//b", ""):
        with pytest.raises(InputError, match=r"is no name of an image, expected one such as"):
            pinned_image(profile, name + digest)
    for name in (
        "localhost:5000/a/b_c-d.e__f",
        "Registry.Example/segmodels:v1.2-GPU",
        "10.0.0.1/x",
        "[2001:db8::1]:80/x",
    ):
        assert pinned_image(profile, name + digest).reference == name + digest
    with pytest.raises(InputError, match="is no name of an image"):
        pinned_image(profile, "segmodels@sha256:abc")
    pin_image(profile, Image("foo bar" + digest, "abc"))
    with pytest.raises(InputError, match="is no name of an image"):
        pinned_image(profile)


def test_an_image_is_pinned_by_the_digest_of_the_registry_that_it_was_pushed_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = [f"other.example/segmodels@sha256:{'b' * 64}", DIGEST]
    pushed = SimpleNamespace(labels={"org.opencontainers.image.revision": "abc"}, attrs={"RepoDigests": digests})
    client = SimpleNamespace(images=SimpleNamespace(get=lambda _: pushed), close=lambda: None)
    monkeypatch.setattr("docker.from_env", lambda: client)
    assert image_of("registry.example/segmodels:cpu-1") == Image(DIGEST, "abc")
    assert image_of("segmodels:cpu-1") == Image("segmodels:cpu-1", "abc"), "in no registry under this name"
    pushed.labels.clear()
    with pytest.raises(InputError, match="build it with `make image`"):
        image_of("segmodels:cpu-1")


def test_docker_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(InputError, match="Docker does not answer"):
        image_of("segmodels:cpu-1")


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, InputError, "is not on this machine: build it"),
        (400, InputError, "rejects image"),
        (500, TransientError, "fails with image"),
    ],
)
def test_what_docker_says_of_an_image_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception], said: str
) -> None:
    class Docker(Answers):
        def answer(self) -> tuple[int, dict]:
            return (
                (200, {"ApiVersion": "1.44"})
                if self.path.endswith("/version")
                else (status, {"message": "No such image"})
            )

    with serving(Docker) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        with pytest.raises(kind, match=said):
            local_image("segmodels:cpu-1")


# --- parameters


def test_the_pipelines_parameters_say_the_same_as_params_yaml() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert all_params(default_values(params)) == params


def test_a_parameter_that_is_set_replaces_the_default() -> None:
    default = default_values(
        checked_params({"ingest": {"source": "dvc", "repo": "r", "path": "p", "rev": "main"}}, "test")
    )
    given = given_values(
        ["dataset_rev=20260301", "learning_rate=1e-4", "epochs=3", "skip_unchanged=FALSE", 'loss={"dice": 1}'], default
    )
    params = all_params(default | given)
    assert (params.ingest.rev, params.train.lr, params.train.epochs, params.train.loss) == (
        "20260301",
        1e-4,
        3,
        {"dice": 1.0},
    )
    assert given["skip_unchanged"] is False


def test_values_are_single_sources() -> None:
    default = default_values(PipelineParams())
    assert "epochs" not in json.loads(default["train_params"])["train"]


# --- cron


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0 0 3 * * *", ["2026-11-21 03:00:00", "2026-11-22 03:00:00", "2026-11-23 03:00:00"]),
        ("0 */15 * * * *", ["2026-11-20 18:15:00", "2026-11-20 18:30:00", "2026-11-20 18:45:00"]),
        ("0 0 9 ? * MON-FRI", ["2026-11-23 09:00:00", "2026-11-24 09:00:00", "2026-11-25 09:00:00"]),
        ("30 0 0 1 jan *", ["2027-01-01 00:00:30", "2028-01-01 00:00:30", "2029-01-01 00:00:30"]),
        (
            "0 0 0 1 * 0",
            ["2026-11-22 00:00:00", "2026-11-29 00:00:00", "2026-12-01 00:00:00"],
        ),  # first of the month or Sunday
        ("0 5/20 6,18 * * *", ["2026-11-20 18:05:00", "2026-11-20 18:25:00", "2026-11-20 18:45:00"]),
        ("0 0 0 31 2 *", []),
    ],
)
def test_the_next_times_of_a_cron_expression(text: str, times: list[str]) -> None:
    found = Cron.parse(text).next_times(datetime(2026, 11, 20, 18, 0, 0, tzinfo=UTC), 3)
    assert [f"{time:%Y-%m-%d %H:%M:%S}" for time in found] == times


@pytest.mark.parametrize(
    "text",
    [
        "0 3 * * *",
        "a",
        "60 0 0 * * *",
        "0 0 3 * * FOO",
        "0 0 3 * * 7",
        "0 0 5-3 * * *",
        "*/0 * * * * *",
        "0 0 3 * *-3 *",
        "1.5 0 0 * * *",
    ],
)
def test_an_impossible_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="cron expression"):
        Cron.parse(text)


# --- secrets


class Kubernetes(Answers):
    def answer(self) -> tuple[int, dict]:
        if self.path.startswith("/api/v1/namespaces/jane/secrets/store"):
            return 200, {"kind": "Secret", "metadata": {"name": "store"}, "data": {"accesskey": "eA==", "empty": ""}}
        if self.path.startswith("/api/v1/namespaces/jane/persistentvolumeclaims/images"):
            return 200, {"kind": "PersistentVolumeClaim", "metadata": {"name": "images"}}
        return 404, {"kind": "Status", "code": 404, "reason": "NotFound"}


def test_a_secret_that_is_missing_in_the_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Kubernetes) as port:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))

        def profile(**keys: str) -> Profile:
            return Profile(secrets=[Secret(name=name, environment={key: key.upper()}) for name, key in keys.items()])

        require_objects(profile(store="accesskey"), "jane")
        with pytest.raises(
            InputError,
            match=(
                "secret 'missing' is not in namespace 'jane': create it with `kubectl -n jane create secret generic"
                " missing"
            ),
        ):
            require_objects(profile(missing="accesskey"), "jane")
        with pytest.raises(InputError, match="has no value for secretkey"):
            require_objects(profile(store="secretkey"), "jane")
        with pytest.raises(InputError, match="has no value for empty"):
            require_objects(profile(store="empty"), "jane")
        require_objects(Profile(volumes=[Volume(claim="images", path="/images")]), "jane")
        with pytest.raises(
            InputError, match="volume claim 'imagse' is not in namespace 'jane': create that Persistent"
        ):
            require_objects(Profile(volumes=[Volume(claim="imagse", path="/images")]), "jane")
        require_objects(Profile(secrets=[Secret(name="missing", environment={"k": "K"}, optional=True)]), "jane")


def test_without_a_kubeconfig_secrets_are_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    require_objects(Profile(secrets=[Secret(name="store", environment={"k": "K"})]), "")
    assert "not checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('train_params={"train": {"lr": 0.1}}', "train.lr is the pipeline parameter learning_rate, which would"),
        ('register_params={"register": {"minimum": 0.9}}', "register.minimum is the pipeline parameter minimum_score"),
        ('train_params={"evaluate": {"flip": true}}', "train_params: it has the section 'evaluate', expected"),
    ],
)
def test_keys_that_a_pipeline_would_ignore_are_refused(given: str, said: str) -> None:
    defaults = default_values(PipelineParams())
    with pytest.raises(InputError, match=re.escape(said)):
        given_values([given], defaults)
