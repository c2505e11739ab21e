"""The report of a job: one HTML file. `content` collects its numbers and images, and `page` renders them."""
