"""What it costs: latency, memory and bytes of an executable model, on a machine, under a workload."""
