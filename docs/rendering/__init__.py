"""From the files in docs/results to what readers see: tables in Markdown, plots in SVG."""
