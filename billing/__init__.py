"""What a bill is: prices, rounding, lines and invoices. Pure; no Beam."""
