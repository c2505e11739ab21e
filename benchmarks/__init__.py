"""What the README's figures come from: each program prints a Markdown table and writes benchmarks/results/NAME.json."""
