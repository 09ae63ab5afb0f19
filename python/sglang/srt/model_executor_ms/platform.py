"""SGLang's platform for a machine without an accelerator; only processes that the MindSpore backend starts use it."""

from sglang.srt.model_executor_ms.environment import CPU_PLATFORM, read_environment
from sglang.srt.model_executor_ms.plugin import install_flag
from sglang.srt.model_executor_ms.server import import_hook
from sglang.srt.model_executor_ms.server.accelerators import accelerator
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform


def activate() -> str | None:
    """SGLang's platform entry point, called in every process at `import sglang`: the class to use, or None.

    None unless this platform was selected by name, so that a server of another framework keeps SGLang's own.
    """
    import_hook.install(install_flag)
    environment = read_environment()
    if environment.platform != CPU_PLATFORM or environment.cpu_engine or accelerator():
        return None
    return f"{__name__}.{PlainCpuPlatform.__name__}"


class PlainCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU whose kernels are MindSpore's: no triton, nothing that captures graphs."""

    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        return "mindspore"

    def is_pin_memory_available(self, device=None) -> bool:
        return False
