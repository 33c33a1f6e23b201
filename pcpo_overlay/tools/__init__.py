"""What people run beside a training: never imported by what runs in a trainer."""
