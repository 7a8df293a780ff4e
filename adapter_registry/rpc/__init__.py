"""The wire: protobuf in, service call, protobuf out."""
