"The environment in which notebooks run, to store their outputs and to test them"

import platform

KERNEL_ENV = {
    "IN_TEST": "1",  # nbdev: nbdev_export() in a cell does nothing
    # sums in one order; and two workers share two cores
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # a bar without clock and rate is the same each time
    "TQDM_MININTERVAL": "0.5",
    "TQDM_BAR_FORMAT": "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
    "COLUMNS": "80",
}
# AVX-512 adds in another order than AVX2: ask for what every x86-64 machine of today
# has.
if platform.machine().lower() in ("x86_64", "amd64"):
    KERNEL_ENV.update(
        ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_CBWR="AVX2"
    )


def set_kernel_env(environ):
    "Put `KERNEL_ENV` into `environ`, which kernels and test workers inherit"
    environ.update(KERNEL_ENV)
    environ.pop("MPLBACKEND", None)  # kernels choose the inline backend
