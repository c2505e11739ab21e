"""Speed of moving data: reading and decoding images, encoding and writing results."""
