from clpds.cli import main

if __name__ == "__main__":  # child processes import this file
    main()
