import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_the_package_and_the_spec_needs_no_torch():
    result = run("import sys, esper_agent; esper_agent.EnvSpec(); print('torch' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_a_missing_extra_is_named():
    result = run("import sys; sys.modules['tensordict'] = None; import esper_agent; esper_agent.create_policy")
    assert (
        "ImportError: tensordict is not installed; the agent needs it: pip install 'esper-env[agent]'" in result.stderr
    )


def test_every_public_name_is_there():
    result = run("import esper_agent; print(all(getattr(esper_agent, name) for name in esper_agent.__all__))")
    assert result.stdout.strip() == "True", result.stderr
