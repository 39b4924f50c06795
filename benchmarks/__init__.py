"""`python -m benchmarks`: this pipeline beside what a user would pick instead, on the same stand-ins."""
