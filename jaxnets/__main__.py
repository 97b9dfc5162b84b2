"""`python -m jaxnets` is the command `jaxnets`."""

from jaxnets.cli import shell

if __name__ == "__main__":
    shell()
