"""Small programs to read and change. A package, because Opacus installs another of this name."""
