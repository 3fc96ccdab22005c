"""The FPGA as a target: instruction streams for the VTA accelerator, the rest on its host CPU."""
