"""Registers read in place, each behind port Source. Import the adapter needed: the engines are heavy."""
