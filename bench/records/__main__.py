"""``python -m bench.records``: print the reference page of a record's fields."""

from bench.records.fields import page

if __name__ == "__main__":
    print(page(), end="")
