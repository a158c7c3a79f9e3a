"""What a study leaves for people: tables and images. The only place for matplotlib."""
