"""What a study leaves for people: tables and pictures. The only place for matplotlib."""
