"""The environment of the engine's process: what a list names, and what was asked for by name."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from pytest_finetune import redaction

# What Python, torch and the libraries under it read; a `*` stands for any ending. What is called a secret is never
# meant by one of these, so that HF_* passes no HF_TOKEN.
LISTED = (
    *(
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LANGUAGE",
        "LC_*",
        "TZ",
        "TMPDIR",
        "TEMP",
        "TMP",
        "XDG_*",
        "LOGLEVEL",
    ),
    *("CC", "CXX", "NLTK_DATA", "PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "COVERAGE_*", "COV_CORE_*"),
    *("LD_*", "DYLD_*", "MALLOC_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*"),
    *("OPENBLAS_*", "NUMEXPR_*", "ONEDNN_*", "DNNL_*"),
    *("CUDA_*", "CUDNN_*", "CUBLAS_*", "NVIDIA_*", "HIP_*", "HSA_*", "ROCR_*", "TRITON_*"),
    *("TORCH*", "PYTORCH_*", "ACCELERATE_*", "FSDP_*", "BNB_*", "VLLM_*"),
    *("HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*"),
    *("NCCL_*", "GLOO_*", "UCX_*", "FI_*", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *("SLURM_*", "OMPI_*", "PMI_*", "PMIX_*", "MPI_*"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
# Where the token is, or that none is to be sent, is no secret, but is called one.
OF_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN")
OF_TRACKERS = {"wandb": "WANDB_*", "mlflow": "MLFLOW_*"}


def of_engine(given: Mapping[str, str], asked: Iterable[str]) -> dict[str, str]:
    """Return the variables that the engine's process gets.

    Args:
        given: an environment.
        asked: names of others that it gets, secret or not; a `*` stands for any ending.
    """
    wanted = tuple(asked)
    return {
        name: value
        for name, value in given.items()
        if _among(name, wanted) or (_among(name, LISTED) and not redaction.is_secret(name))
    }


def _among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
