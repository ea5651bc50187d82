"""`depo upcycle DENSE OUT`: a mixture of experts out of a dense model, in Hugging Face format."""
