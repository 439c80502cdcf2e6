"""What will be rented, run and paid: pure values, built before anything is sent."""
