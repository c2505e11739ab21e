"""Read shards, images and masks; read and write objects on disks, object stores and web servers."""
