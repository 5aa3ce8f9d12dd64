"""What runs in other processes while a test watches, kills and questions them."""
