"""Human ratings: import, screening of raters, MOS, and the increments that the pipeline trains on."""
