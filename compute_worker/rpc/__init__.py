"""The wire: protobuf in, runtime call, protobuf out."""
