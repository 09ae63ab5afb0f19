"""What an Ascend NPU needs of the executor: installation, start, copies and streams, graphs in buckets, faults.

Everything that talks to the device goes through `link`, `streams` and `mindspore_device`, which only a process with an
NPU imports; the rest is plain code that the CPU runs too, with the operator table `ascend_reference`.
"""
